"""Resolves the paths of a dataset's files, and makes error messages for missing files."""

from pathlib import Path

from chordate.data.zip_files import split_archive
from chordate.errors import NOT_REGULAR, DataError, near_names


def resolve_path(data_root: str | Path, path: str | Path) -> Path:
    """Join the data root (a folder, a zip, or a folder in a zip) and `path`; an absolute `path` is unchanged.

    Raises:
        DataError: `path` is relative, and the data root does not exist.
    """
    path, root = Path(path), Path(data_root)
    if not path.is_absolute() and not root.is_dir() and split_archive(root)[0] is None:
        raise DataError(f"{root}: no such data folder; set it with --data-root or CHORDATE_DATA")
    return root / path


def missing_file(path: Path, kind: str) -> str:
    """Error message for a missing file; names the first folder that does not exist, or files with similar names.

    The search for similar names takes 0.1 seconds in a folder of 3,000 files, so code that may skip missing files
    raises `BrokenFile(partial(missing_file, …))`, which makes the message only when it is shown.
    """
    folder, archive = path.parent, split_archive(path)[0]
    if archive is not None:
        return f"{path}: {kind} files are not read from a zip, only class folders are; unpack {archive}"
    if path.is_dir():
        return f"{path}: is a folder, expected the {kind} file"
    if path.exists():
        return f"{path}: {NOT_REGULAR}"
    if path.is_symlink():
        return f"{path}: no such {kind} file; it is a link to {path.readlink()}, which does not exist"
    if not folder.is_dir():
        while not folder.parent.is_dir():
            folder = folder.parent
        return f"{path}: no such {kind} file; the folder {folder} does not exist{_near(folder)}"
    return f"{path}: no such {kind} file{_near(path)}"


def missing_folder(folder: Path, kind: str = "") -> str:
    """Error message for a missing folder, like that of `missing_file`."""
    return missing_file(folder, "data").replace("data file", f"{kind} folder".strip())


def _near(path: Path) -> str:
    close = near_names(path.name, (entry.name for entry in path.parent.iterdir()))
    return f"; did you mean {' or '.join(close)}?" if close else ""

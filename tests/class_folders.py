"""Generated class folders for the classification tests: images whose class is their color."""

from pathlib import Path

import cv2
import numpy as np

COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}  # RGB


def write_folders(root: Path, counts: dict[str, int], side: int = 24, seed: int = 0, wider: int = 4) -> Path:
    """Write `root/<split>/<class>/<n>.png`, `counts[split]` images per class; returns the root.

    Images have `side` × `side` px; every second one is `wider` px wider.
    """
    random = np.random.default_rng(seed)
    for split, count in counts.items():
        for name, color in COLORS.items():
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                noise = random.normal(0, 60, (side, side + wider * (number % 2), 3))
                picture = (np.array(color) * 0.5 + 64 + noise).clip(0, 255).astype(np.uint8)
                cv2.imwrite(str(folder / f"{number}.png"), picture[:, :, ::-1])
    return root

"""The types that arguments of plugs and settings are annotated with; the registry validates by them (pydantic).

`nms_threshold: Fraction = 0.5` states and checks the range in one place, so constructors hold no checks. Plain
`int`, `float`, `bool`, `str`, `Literal["a", "b"]`, `Sequence[int]`, `tuple[float, float]` and `X | None` are checked too.
"""

from typing import Annotated

from pydantic import Field

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]  # both ends included
OpenFraction = Annotated[float, Field(gt=0, lt=1)]  # neither end
ProperFraction = Annotated[float, Field(ge=0, lt=1)]  # 0, but not 1: a dropout rate

"""Reading the shards that stage `data` wrote."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Pictures:
    """images: uint8 [n, H, W, 3]; records: one dict a picture (captions, facts)."""

    images: np.ndarray
    records: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.records)


def load_pictures(folder: Path, split: str) -> Pictures:
    paths = sorted(folder.glob(f"{split}-*.npz"))
    if not paths:
        raise FileNotFoundError(f"no {split} shards in {folder}; run the stage `data` first")
    images, records = [], []
    for path in paths:
        with np.load(path) as shard:
            images.append(shard["images"])
            records += json.loads(str(shard["records"]))
    return Pictures(np.concatenate(images), records)

"""Settings with which the pairs of prompts of a file are scored."""

from dataclasses import dataclass
from pathlib import Path

from neuroscope.options import Dtype
from neuroscope.prompt_files import read_pairs
from neuroscope.prompts import PromptPair


@dataclass(frozen=True)
class PairsSettings:
    """File of pairs, and how they are scored."""

    file: Path
    a_column: str = "prompt_a"
    b_column: str = "prompt_b"
    name: str = ""
    """Name of the experiment; empty for that of the file."""
    note: str = ""
    """Description of the run."""
    seed: int = 0
    """Seed of the control pairs."""
    truncate: bool = False
    device: str = "auto"
    dtype: Dtype = "float32"

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return self.name or self.file.stem

    def read(self) -> tuple[PromptPair, ...]:
        """Read the pairs; raise PromptError if the file or a pair cannot be used."""
        return read_pairs(self.file, a_column=self.a_column, b_column=self.b_column)

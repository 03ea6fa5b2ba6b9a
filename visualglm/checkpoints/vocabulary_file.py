"""Find the SentencePiece file (`ice_text.model`) that belongs to a checkpoint."""

from __future__ import annotations

from pathlib import Path

from ..errors import TokenizerError
from ..hub.local_folder import SAT_WEIGHTS
from ..preprocessing.sentencepiece_vocabulary import VOCABULARY_FILE


def find_vocabulary(folder: str | Path) -> Path | None:
    """Find the SentencePiece file beside the weights (or beside sat's step folders); None if there is none.

    `folder` may be what `open_checkpoint` takes, also a file inside the folder. Loading the model never needs it.
    """
    folder = Path(folder) if Path(folder).is_dir() else Path(folder).parent
    places = [folder, folder.parent] if (folder / SAT_WEIGHTS).exists() else [folder]
    return next((place / VOCABULARY_FILE for place in places if (place / VOCABULARY_FILE).is_file()), None)


def resolve_vocabulary(path: str | Path) -> Path:
    """Return the vocabulary file that a user named, or the one in the folder that the user named.

    Raises:
        TokenizerError: there is none.
    """
    path = Path(path)
    found = path if path.is_file() else find_vocabulary(path) if path.is_dir() else None
    if found is None:
        raise TokenizerError(
            f"{path} is neither a vocabulary file nor a folder with {VOCABULARY_FILE}. "
            "Give the file of VisualGLM or ChatGLM-6B, or its folder."
        )
    return found

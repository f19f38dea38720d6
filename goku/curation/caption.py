"""A clip's caption: the text beside the source, else the words of its file name.

The paper appends the motion score to the caption, so that a prompt controls motion (section 4);
it does not give the wording. A captioning model would be a stage in this place.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from goku.curation import motion
from goku.curation.footage import Footage
from goku.curation.stage import Rejected, Span


class CaptionStage:
    """Adds the caption; turns nothing away."""

    name, version, splits = "caption", 2, False

    def apply(self, span: Span, footage: Footage) -> Sequence[Span | Rejected]:
        """The span with its caption, and the motion score in it if there is one."""
        text = footage.sidecar or _words(footage.stem)
        if motion.SCORE in span.scores:
            text = with_motion(text, span.scores[motion.SCORE])
        return [replace(span, caption=text)]


def with_motion(text: str, score: float) -> str:
    """The fixed template: a prompt that ends like this asks for that much motion."""
    return f"{text.rstrip('. ')}. Motion score: {score:.1f}."


def _words(stem: str) -> str:
    """Letters, marks and numbers of any script; what else there is parts words."""
    kept = (char if unicodedata.category(char)[0] in "LMN" else " " for char in stem)
    return unicodedata.normalize("NFC", " ".join("".join(kept).split()))

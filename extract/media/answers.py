"""What a decode process answered, held against what it was asked.

`wire.py` sees to it that an answer is a value; whether it is a clip, and one that the encoders can
take, only the request tells.
"""

from dataclasses import replace

from extract.media.clip import PLANAR, Clip, PlanarFrames, Request
from extract.processes.child import Outcome
from store import Status


def checked(outcome: Outcome, request: Request) -> Outcome:
    """The outcome, or a crash where its value is no answer to the request."""
    if outcome.status != Status.OK:
        return replace(outcome, value=None)
    problem = _problem(outcome.value, request)
    if not problem:
        return outcome
    detail = f"the decoder answered nonsense: {problem}"
    return replace(outcome, value=None, status=Status.CRASH, detail=detail)


def _problem(value: object, request: Request) -> str:
    if not isinstance(value, Clip):
        return f"a {type(value).__name__}, no clip"
    sides = set(request.short_sides) if request.pick else set()
    for stream, asked in ((value.visual, sides), (value.audio, set(request.sample_rates))):
        due = asked if stream.status.has_rows else set()
        if set(stream.data) != due:
            return f"{stream.status.kind} with data at {sorted(stream.data)}, not at {sorted(due)}"
    if value.visual.more:
        return f"frame {value.visual.more} would be next, and never comes"
    for side, frames in value.visual.data.items():
        if isinstance(frames, PlanarFrames) != (request.decoder == PLANAR):
            return f"a {type(frames).__name__} by {request.decoder}"
        if min(frames.size) > side:
            return f"frames of {frames.size} pixels for a short side of {side}"
    for rate, sound in value.audio.data.items():
        if sound.rate != rate:
            return f"sound at {sound.rate} Hz for {rate} Hz"
    return ""

"""The two bases of all typed structures: what comes in is strict, what goes out is compact."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

T = TypeVar("T")


def doc(text: str, **limits: Any) -> msgspec.Meta:
    """The description and limits of one field, for `Annotated`."""
    return msgspec.Meta(description=text, **limits)


class Params(msgspec.Struct, forbid_unknown_fields=True, rename="camel", kw_only=True, frozen=True):
    """Parameters: unknown members are an error, `null` is the same as absent."""

    meta: Annotated[
        dict[str, Any] | None, doc("Anything; passed over. Allowed on every method.")
    ] = msgspec.field(name="_meta", default=None)


class Result(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    """Results and notifications: members that are None by default are left out."""


class NoParams(Params, frozen=True):
    """A method that takes nothing."""


Model = Annotated[
    Annotated[str, msgspec.Meta(min_length=1)] | None,
    doc(
        "Model id: a folder, an id found in the local Hugging Face cache, a name inside "
        "`--models-dir`, or `pico`. Default: the engine's `defaultModel`."
    ),
]
CanonicalId = Annotated[str, doc("The model's canonical id: one for all names of its folder.")]
TokenId = Annotated[int, msgspec.Meta(ge=0)]

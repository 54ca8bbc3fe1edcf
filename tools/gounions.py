"""Go's names for members, and Go types for members that may be of several JSON types.

Go has no sum types. A union is a struct with one hidden value, made by a constructor that takes no
other types, and looked into by a type switch; it can be compared and used as a key where its parts
can. Which part a JSON value is, its first byte tells.
"""

from __future__ import annotations

import re

_INITIALISMS = {"blas", "id", "json", "kv", "lru", "mlx", "rpc", "rss", "xtc"}
_FIRST = {"string": "'\"'", "[": "'['", "map": "'{'"}
_TYPE = """\
// {name} is {words}; the zero value is null.
type {name} struct{{ value any }}

// New{name} holds a value.
func New{name}[T {options}](value T) {name} {{
	return {name}{{value}}
}}

// Value is {words}, or nil.
func (u {name}) Value() any {{
	return u.value
}}

// IsZero tells whether there is no value, so that `omitzero` leaves it out.
func (u {name}) IsZero() bool {{
	return u.value == nil
}}

// MarshalJSON gives the value as it is.
func (u {name}) MarshalJSON() ([]byte, error) {{
	return encoded(u.value)
}}

// UnmarshalJSON accepts {words}, and null.
func (u *{name}) UnmarshalJSON(data []byte) error {{
	u.value = nil
	switch first(data) {{
	case 'n':
		return nil
{cases}	}}
{rest}}}
"""
_CASE = "\tcase {first}:\n\t\treturn decode[{type}](data, &u.value)\n"
_INTEGER = "\treturn decode[int64](data, &u.value)\n"
_NEITHER = '\treturn fmt.Errorf("mlxstdio: neither {words}: %s", data)\n'

HELPERS = """\
func first(data []byte) byte {
	for _, char := range data {
		if char != ' ' && char != '\\t' && char != '\\r' && char != '\\n' {
			return char
		}
	}
	return 0
}

func decode[T any](data []byte, into *any) error {
	var value T
	if err := json.Unmarshal(data, &value); err != nil {
		return err
	}
	*into = value
	return nil
}
"""


def exported(name: str) -> str:
    """A wire name as Go exports it: `requestId` is `RequestID`, `$/progress` is `Progress`."""
    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)
    return "".join(
        word.upper() if word.lower() in _INITIALISMS else word[0].upper() + word[1:]
        for word in words
    )


def union(parts: list[str]) -> tuple[str, str]:
    """The name and the declaration of a type that is one of these Go types."""
    parts = sorted(parts, key=lambda part: (part != "string", part))
    name = "Or".join(_word(part) for part in parts)
    words = " or ".join(parts)
    cases = "".join(
        _CASE.format(first=_FIRST[start], type=part)
        for part in parts
        for start in _FIRST
        if part.startswith(start)
    )
    rest = _INTEGER if "int64" in parts else _NEITHER.format(words=words.replace(" or ", " nor "))
    declared = _TYPE.format(
        name=name, words=words, options=" | ".join(parts), cases=cases, rest=rest
    )
    return name, declared


def _word(part: str) -> str:
    if part.startswith("map"):
        return "Object"
    if part.startswith("[]"):
        return _word(part[2:]) + "s"
    return {"string": "String", "int64": "Integer"}.get(part, part)

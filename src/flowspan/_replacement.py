"""An attribute of a class or module that is replaced for a while."""

from typing import Any, Final

_INHERITED: Final = object()


class Replacement:
    """Puts `value` in the place of an attribute, and restores exactly what was there.

    What an owner only inherits is not left behind as a copy of its own.
    """

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        """Note what is there; `install` replaces it."""
        self.owner = owner
        self.name = name
        self._value = value
        self._original = vars(owner).get(name, _INHERITED)

    @property
    def is_in_place(self) -> bool:
        """Whether nobody has replaced it again, such as to wrap it."""
        return vars(self.owner).get(self.name) is self._value

    def install(self) -> None:
        """Replace the attribute."""
        setattr(self.owner, self.name, self._value)

    def restore(self) -> None:
        """Put back what was there, whatever is there now."""
        if self._original is _INHERITED:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self._original)

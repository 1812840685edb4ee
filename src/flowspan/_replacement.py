"""Replace an attribute of a class or module for a while."""

from typing import Any, Final

_INHERITED: Final = object()


class Replacement:
    """Replaces an attribute with `value`, and restores exactly what was there.

    If the owner only inherited the attribute, restoring leaves no copy on it.
    """

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        """Note the current value; `install` replaces it."""
        self.owner = owner
        self.name = name
        self._value = value
        self._original = vars(owner).get(name, _INHERITED)

    @property
    def is_in_place(self) -> bool:
        """Whether the attribute is still `value`, and not replaced or wrapped by others."""
        return vars(self.owner).get(self.name) is self._value

    def install(self) -> None:
        """Replace the attribute."""
        setattr(self.owner, self.name, self._value)

    def restore(self) -> None:
        """Restore the original, whatever the current value is."""
        if self._original is _INHERITED:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self._original)

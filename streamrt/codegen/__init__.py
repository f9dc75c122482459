"""What an app's declarations say, written down for others: clients in TypeScript and JavaScript, and JSON Schema."""

from typing import Final

VERSION: Final = "0.1.0"
"""Of streamrt, as generated files say it; streamrt may be used without being installed, so it is not asked for."""

"""The quick start's program: greet, and tell where from."""

import os
import platform
from pathlib import Path

built = Path("/app/built.txt").read_text().strip()
print(f"Hello from {os.getcwd()} in an image that imgbuild made!")
print(f"Python {platform.python_version()}; {built}")

"""Refuses a file of the user's that has the name of a module here, for scripts that import `restore`."""
import importlib.util
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = ("config", "degradations", "engine", "files", "layers", "losses", "metrics", "model", "results",
         "utils", "weights")

for name in NAMES:
    found = importlib.util.find_spec(name)
    path = Path(found.origin or found.submodule_search_locations[0]).resolve()
    if not path.is_relative_to(HERE):
        raise ImportError(f"{path} hides the module of that name in {HERE}: rename it or, if your script does not "
                          f"import it, write before the imports: import sys; sys.path.insert(0, {str(HERE)!r})")

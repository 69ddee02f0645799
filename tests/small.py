"""main.py with one residual block instead of 16, to train in seconds: what is tested is the training, not the network."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import main
import model

model.N_BLOCKS = 1
sys.exit(main.main(main.parse_arguments()))

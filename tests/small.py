"""main.py with one residual block instead of 16, to train in seconds: what is tested is the training, not the network."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import main
import model

model.N_BLOCKS = 1
arguments = main.parse_arguments()
main.configure(arguments.set)
sys.exit(main.main(arguments))

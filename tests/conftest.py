import os

# Before torch is imported: threads of several processes on few cores spin against each other.
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

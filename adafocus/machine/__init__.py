"""The machine: devices, processes, GPUs, signals, files, locks and shared memory."""

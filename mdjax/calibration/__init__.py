"""A small zoo of the user's own task, and what it says of larger networks: `mdjax calibrate`."""

"""Recovery of known modules, calibration and speed of module finding."""

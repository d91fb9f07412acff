"""`calibrate="reconstruct"`: the spiking network trained towards the float one, without labels.

Reading order: options, distance, augmentation, student, rounding, checkpoint, training.
"""

"""The engine: the same results as the models' own code, sooner and in less memory.

The models ask `engine.engine_for`, the only entrance. `STABLE_LONGFORM_ACCELERATION=0` in the environment turns
everything here off.
"""

"""The engine: the same results as the models' own code, faster and with less memory.

The models call `engine.engine_for`, the only entry point. The environment variable `STABLE_LONGFORM_ACCELERATION=0`
turns everything here off.
"""

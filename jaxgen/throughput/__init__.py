"""How fast a config trains and samples here: what `jaxgen benchmark` measures.

    cases      which programs are measured, from flags
    measure    one of them: compile time, turns, memory, FLOPs
    chips what the devices can do: a matrix product measured, and their memory summary what several measurements say
    together: scaling, seconds and quality

The programs are those of `jaxgen train` and `jaxgen sample` (`engine.program.Program`), fed with random batches of the
data's shapes, so that no data set need be there and reading one is not part of a time.
"""

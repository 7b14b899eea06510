def plan(random, subjects): raise NotImplementedError

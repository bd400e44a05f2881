"""The processes that run and judge model-written code; `unisd.tasks.sandbox` starts them. Standard library only.

`supervisor` forks two children that cannot reach anything (`confine`): `worker` runs the code, `judge` runs the tests
and asks the worker for values (`wire`). They start without site packages, so nothing here imports the rest of unisd.
"""

"""Scheduler, dispatcher and ladder in a world without time: `python -m tests.simulation --seeds 2000`.

The product's own accept, alarm, fire, sweep, commands, gate, delivery, ladder and projection; the broker, Postgres,
Redis and the targets are fakes that delay, lose answers, duplicate, go away and come back as a seed says. A seed is a
life of some tasks, the same each time it is run.
"""

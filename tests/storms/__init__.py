"""A farm in a storm: server, hosts, builders and a network in one process, on a virtual clock.

Everything that goes wrong in a farm sooner or later goes wrong here, thousands of times and in
seconds, and after every step somebody looks whether the farm's promises still hold (`watch`). What
happens depends on a seed and on nothing else. `make soak` plays seeds, `make test` some hundreds.

What is real: host-server from its connections to its timers (`host_server`), with farm, policies,
learning and wire; asyncio's tasks and streams, on loops of our own (`clock`). What it reads and
writes are bytes, in pieces and late, as TCP brings them (`network`).

What is modelled: the other side of each connection. `builder` is make and gethost with distcc,
`compile_host` is loadavg and distccd, both written from docs/protocol.md and from what the programs
do when something fails, bounds in time included. An administrator and a stranger type by hand.

What goes wrong (`plan`): processes are killed and stopped, the server too; machines lose their
power, paths are cut, connections reset or stalled, the network slow; hosts fail, are mute, are
drained and removed; their owners use them. Every fault is put right in the end (`world`): then each
compile must have ended once, and the farm must be whole.

A failure's story (`story`) is that of the smallest world that still fails.

What is not here: the monitor port, files, names, full buffers, IPv6, how fast a compile is among
others, and the C program. Those have tests with real processes.

Two other depths were weighed. The bare `Farm` with made-up events is three times as fast, and is
what `test_farm_properties` does: but the worst faults are in between, where a half line, a close
and a timer meet. Real processes are what `test_chaos` has, some hundreds of compiles a minute.
"""

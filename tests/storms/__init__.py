"""A farm in a storm: server, hosts, builders and a network in one process, on a virtual clock.

Everything that goes wrong in a farm goes wrong here thousands of times, within seconds. After every
step the farm's promises are checked (`watch`). A seed decides everything that happens. `make soak`
plays many seeds, `make test` some hundreds.

host-server is real, from its connections to its timers (`host_server`), with the farm, policies,
learning and wire. asyncio's tasks and streams are real too, on event loops of our own (`clock`). As
with TCP, bytes arrive in pieces and late (`network`).

The other side of each connection is a model. `builder` is make and gethost with distcc;
`compile_host` is loadavg and distccd. Both follow docs/protocol.md and the programs' behaviour
after failures, time limits included. An administrator types by hand (`administrator`).

`plan` lists the faults, and `faults` carries them out. Processes are killed and stopped, the server
included. Machines lose power, paths are cut, connections are reset or stalled, and the network is
slow. Hosts fail, hang, are drained and removed, and are used by their owners. In the end every
fault is repaired (`world`). Then each compile must have ended once, and the farm must be whole.

The story of a failure (`story`) is that of the smallest world that still fails.

Not modelled are the monitor port, files, names, full buffers, IPv6, how compiles slow each other
down, and the C program. These have tests with real processes.

Two other depths were considered. `test_farm_properties` runs the bare `Farm` on made-up events.
That is three times as fast, but the worst faults lie where half a line, a close and a timer meet.
`test_chaos` runs real processes, which do some hundreds of compiles a minute.
"""

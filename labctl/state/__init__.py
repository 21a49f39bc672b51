"""The state of a whole lab, RAM and disks of all its nodes together: saved once, then restored in seconds.

A state is, for each node, `state.KEY.NODE.qcow2` (a copy of the node's overlay, frozen) and `state.KEY.NODE.ram`
(libvirt's save image), and `state.KEY.lab.manifest`, which says what it is of, and at the end that it is whole. Its
disks are layers, too: where a lab differs, the nodes that don't begin with the disk of one that was made from the same.
"""

"""Everything that two or more values of a topology must agree on.

Each check is a pure function that yields what it finds; none relies on another having passed.
"""

from __future__ import annotations

from collections.abc import Iterator

from labctl.topology.catalogue import Catalogue
from labctl.topology.check_accounts import check_accounts, check_directory, check_group_members, check_user_names
from labctl.topology.check_clusters import (
    check_heartbeats,
    check_member_nics,
    check_members,
    check_priorities,
    check_virtual_addresses,
)
from labctl.topology.check_names import check_domain, check_fqdns, check_names
from labctl.topology.check_networks import check_addresses, check_macs, check_network_names, check_subnets
from labctl.topology.check_nodes import (
    check_images,
    check_nics,
    check_required_roles,
    check_roles,
    check_roles_together,
    check_session,
)
from labctl.topology.check_port_rules import (
    check_overlaps,
    check_rule_addresses,
    check_rule_count,
    check_rule_members,
    check_rule_options,
)
from labctl.topology.finding import Finding
from labctl.topology.model import Topology

__all__ = ["check"]

CHECKS = (
    check_names,
    check_domain,
    check_fqdns,
    check_subnets,
    check_network_names,
    check_addresses,
    check_macs,
    check_nics,
    check_virtual_addresses,
    check_session,
    check_members,
    check_member_nics,
    check_priorities,
    check_heartbeats,
    check_rule_count,
    check_rule_options,
    check_rule_members,
    check_rule_addresses,
    check_overlaps,
    check_accounts,
    check_user_names,
    check_group_members,
    check_directory,
)

CATALOGUE_CHECKS = (check_images, check_roles, check_roles_together, check_required_roles)


def check(topology: Topology, catalogue: Catalogue) -> Iterator[Finding]:
    """Everything that is wrong with `topology`, in no particular order."""
    for of_topology in CHECKS:
        yield from of_topology(topology)
    for of_both in CATALOGUE_CHECKS:
        yield from of_both(topology, catalogue)

"""A process with nodes of Ray's on this machine: a head without processors, and others. Lines of JSON on stdin add and
remove some."""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    store = 80 << 20
    node = {"num_cpus": 2, "object_store_memory": store}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"num_cpus": 0, "include_dashboard": False})
    for _ in range(int(sys.argv[1])):
        cluster.add_node(wait=False, **node)
    cluster.wait_for_nodes(120)
    logs = cluster.head_node.get_session_dir_path()
    print(json.dumps({"address": cluster.address, "logs": logs}), file=events)
    port = 0
    for line in sys.stdin:
        what = json.loads(line)["do"]
        if what == "remove":
            cluster.remove_node(sorted(cluster.worker_nodes, key=id)[0], allow_graceful=False)
        elif what == "add":
            cluster.add_node(**node)
        elif what == "end head":
            port = int(cluster.address.rpartition(":")[2])
            cluster.remove_node(cluster.head_node, allow_graceful=False)
        elif what == "new head":
            for old in list(cluster.worker_nodes):
                cluster.remove_node(old, allow_graceful=False)
            args = node | {"num_cpus": 4, "include_dashboard": False, "gcs_server_port": port}
            cluster = Cluster(initialize_head=True, head_node_args=args)
        print(json.dumps({"done": what}), file=events)
    cluster.shutdown()


if __name__ == "__main__":
    main()

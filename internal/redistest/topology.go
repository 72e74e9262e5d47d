package redistest

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// clusterSlots is the number of hash slots every Redis Cluster has.
const clusterSlots = 16384

// Cluster is a Redis Cluster of masters without replicas.
type Cluster struct {
	// URL is the redis+cluster:// address naming every node.
	URL string
	// Nodes are the masters.
	Nodes []*Server
}

// StartCluster runs a Redis Cluster of n masters that share all slots, and
// waits until every node says that the cluster is up.
func StartCluster(tb testing.TB, n int, args ...string) *Cluster {
	tb.Helper()
	c := &Cluster{}
	var addrs []string
	for range n {
		c.Nodes = append(c.Nodes, startClusterNode(tb, args))
	}
	for i, s := range c.Nodes {
		addrs = append(addrs, s.Addr)
		// A node takes an epoch only while it knows no other, so all get theirs
		// before any two meet.
		epoch := []string{"CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i + 1)}
		slots := []string{"CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i * clusterSlots / n), strconv.Itoa((i+1)*clusterSlots/n - 1)}
		if _, err := command(s.Addr, epoch, slots); err != nil {
			tb.Fatalf("form the cluster: %v", err)
		}
	}
	for _, s := range c.Nodes {
		var meet [][]string
		for _, peer := range c.Nodes {
			if peer != s {
				host, port, _ := net.SplitHostPort(peer.Addr)
				meet = append(meet, []string{"CLUSTER", "MEET", host, port, strconv.Itoa(busPort(peer))})
			}
		}
		if _, err := command(s.Addr, meet...); err != nil {
			tb.Fatalf("form the cluster: %v", err)
		}
	}
	c.URL = "redis+cluster://" + strings.Join(addrs, ",")
	for _, s := range c.Nodes {
		waitFor(tb, "the cluster to be up on "+s.Addr, func() bool {
			r, err := command(s.Addr, []string{"CLUSTER", "INFO"})
			return err == nil && strings.Contains(r[0], "cluster_state:ok") &&
				strings.Contains(r[0], fmt.Sprintf("cluster_known_nodes:%d", n)) &&
				strings.Contains(r[0], fmt.Sprintf("cluster_size:%d", n))
		})
	}
	return c
}

func startClusterNode(tb testing.TB, args []string) *Server {
	tb.Helper()
	bin := binary(tb)
	for range startAttempts {
		// The bus port is named because the default, port + 10000, may not exist.
		s := newServer(tb, bin, freePort(tb), append([]string{
			"--cluster-enabled", "yes", "--cluster-node-timeout", "3000", "--cluster-require-full-coverage", "no",
			"--cluster-port", strconv.Itoa(freePort(tb)),
		}, args...))
		err := s.start()
		if err == nil {
			tb.Cleanup(s.Stop)
			return s
		}
		if !errors.Is(err, errPortTaken) {
			tb.Fatalf("start cluster node: %v", err)
		}
	}
	tb.Fatalf("start cluster node: no free port in %d attempts", startAttempts)
	return nil
}

func busPort(s *Server) int {
	for i, a := range s.args {
		if a == "--cluster-port" {
			port, _ := strconv.Atoi(s.args[i+1])
			return port
		}
	}
	return 0
}

// Sentinel is a master with one replica, watched by one sentinel.
type Sentinel struct {
	// URL is the redis+sentinel:// address.
	URL string
	// Master, Replica and Watcher are the three processes. Watcher's own
	// Restart forgets nothing: its configuration file is kept.
	Master, Replica, Watcher *Server
}

// StartSentinel runs a master, a replica of it and a sentinel that watches both
// under the name "mymaster" and fails over after one second of silence.
func StartSentinel(tb testing.TB, args ...string) *Sentinel {
	tb.Helper()
	s := &Sentinel{Master: Start(tb, args...)}
	host, port, _ := net.SplitHostPort(s.Master.Addr)
	s.Replica = Start(tb, append([]string{"--replicaof", host + " " + port, "--repl-diskless-sync-delay", "0"}, args...)...)
	waitFor(tb, "the replica to be in step", func() bool {
		r, err := command(s.Replica.Addr, []string{"INFO", "replication"})
		return err == nil && strings.Contains(r[0], "master_link_status:up")
	})
	s.Watcher = startSentinel(tb, host, port)
	s.URL = "redis+sentinel://" + s.Watcher.Addr + "/mymaster"
	waitFor(tb, "the sentinel to know the replica", func() bool {
		r, err := command(s.Watcher.Addr, []string{"INFO", "sentinel"})
		return err == nil && strings.Contains(r[0], "status=ok") && strings.Contains(r[0], "slaves=1")
	})
	return s
}

func startSentinel(tb testing.TB, host, port string) *Server {
	tb.Helper()
	bin := binary(tb)
	for range startAttempts {
		p := freePort(tb)
		dir := tb.TempDir()
		conf := writeFile(tb, dir, "sentinel.conf", fmt.Sprintf(`port %d
bind 127.0.0.1
dir %s
sentinel monitor mymaster %s %s 1
sentinel down-after-milliseconds mymaster 1000
sentinel failover-timeout mymaster 5000
`, p, dir, host, port))
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(p))
		s := &Server{URL: "redis://" + addr, Addr: addr, tb: tb, bin: bin, dir: dir, args: []string{conf, "--sentinel"}}
		err := s.start()
		if err == nil {
			tb.Cleanup(s.Stop)
			return s
		}
		if !errors.Is(err, errPortTaken) {
			tb.Fatalf("start sentinel: %v", err)
		}
	}
	tb.Fatalf("start sentinel: no free port in %d attempts", startAttempts)
	return nil
}

// waitFor polls until ok says so, and fails the test after startTimeout.
func waitFor(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.After(startTimeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			tb.Fatalf("waited %s for %s", startTimeout, what)
		case <-tick.C:
		}
	}
}

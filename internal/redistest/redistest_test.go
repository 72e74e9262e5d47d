package redistest

import (
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func do(t *testing.T, s *Server, cmd ...string) string {
	t.Helper()
	r, err := command(s.Addr, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return r[0]
}

func TestKillAndRestartKeepsAcknowledgedWrites(t *testing.T) {
	s := Start(t)
	do(t, s, "SET", "k", "v")
	s.Kill()
	if _, err := command(s.Addr, []string{"PING"}); err == nil {
		t.Fatal("a killed server answered")
	}
	s.Restart()
	if got := do(t, s, "GET", "k"); got != "v" {
		t.Fatalf("after restart k = %q, want v", got)
	}
	s.Pause()
	s.Continue()
	if got := do(t, s, "PING"); got != "PONG" {
		t.Fatalf("after a pause: %q", got)
	}
	s.Stop()
	s.Stop()
}

func TestClusterForms(t *testing.T) {
	c := StartCluster(t, 3)
	if len(c.Nodes) != 3 || strings.Count(c.URL, ",") != 2 {
		t.Fatalf("cluster %q of %d nodes", c.URL, len(c.Nodes))
	}
}

func TestSentinelForms(t *testing.T) {
	s := StartSentinel(t)
	if !strings.HasSuffix(s.URL, "/mymaster") {
		t.Fatalf("url %q", s.URL)
	}
}

func TestPasswordIsUsedToRecogniseTheServer(t *testing.T) {
	s := Start(t, "--requirepass", "hunter2")
	if !strings.Contains(s.URLWithPassword(), "hunter2") {
		t.Fatalf("url %q", s.URLWithPassword())
	}
}

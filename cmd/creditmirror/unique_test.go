package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/creditmirror/creditmirror/config"
)

type logged map[string]string

func (l logged) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	for k, v := range l {
		enc.AddString(k, v)
	}
	return nil
}

// No line has a key twice, wherever its fields come from; the last one counts, and the
// line's own time, level and message do always.
func TestNoKeyTwiceInALine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	e := &env{err: &out, logFormat: "json"}
	log := e.logger(config.LogInfo).Named("x").With(zap.String("component", "a"), zap.String("account", "acct_1"))
	log = log.With(zap.String("component", "b"))
	log.Info("hello", zap.String("account", "acct_2"), zap.Inline(logged{"customer_id": "cus_1", "account": "acct_3"}), zap.String("level", "none"), zap.String("customer_id", "cus_2"), zap.String("msg", "other"))
	line := strings.TrimSpace(out.String())
	for _, key := range []string{"component", "account", "customer_id", "level", "msg", "time"} {
		if n := strings.Count(line, `"`+key+`":`); n != 1 {
			t.Errorf("%d times %s: %s", n, key, line)
		}
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"component": "b", "account": "acct_3", "customer_id": "cus_2", "level": "info", "msg": "hello"} {
		if got[key] != want {
			t.Errorf("%s is %v, want %s", key, got[key], want)
		}
	}
}

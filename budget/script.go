package budget

import (
	"context"
	"crypto/sha1" // #nosec G505 -- the name that Redis gives a script, no protection
	_ "embed"
	"encoding/hex"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed acquire.lua
	acquireLua string
	//go:embed throttle.lua
	throttleLua string
	//go:embed beat.lua
	beatLua string
)

// script is a Lua script as written and, for servers that do not know the
// first line with the flags (Redis before 7, the embedded Redis), without it.
type script struct {
	text, sha [2]string
	plain     *atomic.Bool // which of the two the server takes; shared by all scripts
}

func newScript(text string, plain *atomic.Bool) *script {
	_, body, _ := strings.Cut(text, "\n")
	s := &script{text: [2]string{text, body}, plain: plain}
	for i, t := range s.text {
		sum := sha1.Sum([]byte(t)) // #nosec G401 -- the name that Redis gives a script, no protection
		s.sha[i] = hex.EncodeToString(sum[:])
	}
	return s
}

// run runs the script and returns the number it replies with. A server that
// does not hold the script gets it in full.
func (s *script) run(ctx context.Context, client redis.UniversalClient, keys []string, args ...any) (int64, error) {
	flavour := 0
	if s.plain.Load() {
		flavour = 1
	}
	n, err := client.EvalSha(ctx, s.sha[flavour], keys, args...).Int64()
	if !redis.HasErrorPrefix(err, "NOSCRIPT") {
		return n, err
	}
	n, err = client.Eval(ctx, s.text[flavour], keys, args...).Int64()
	if err != nil && flavour == 0 && strings.Contains(strings.ToLower(err.Error()), "compiling script") {
		s.plain.Store(true)
		return client.Eval(ctx, s.text[1], keys, args...).Int64()
	}
	return n, err
}

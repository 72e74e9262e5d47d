package queue

import (
	"context"
	"crypto/sha1" // #nosec G505 -- the name that Redis gives a script, no protection
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// script is one Lua script in two flavours: as written, with the first line
// that gives Redis its flags, and without, for servers that know no such line
// (Redis before 7, the embedded Redis).
type script struct {
	text, sha [2]string // indexed by flavour
}

// The two flavours of a script.
const (
	flagged = iota
	plain
)

// scripts are all scripts of the queue, read once per Queue.
type scripts struct {
	mark, claim, renew, done, fail, resume, reap, repair, stats, stamp *script
}

func loadScripts() (s scripts, err error) {
	prelude, err := luaFiles.ReadFile("lua/prelude.lua")
	if err != nil {
		return s, fmt.Errorf("queue scripts: %w", err)
	}
	for name, p := range map[string]struct {
		into    **script
		prelude []byte
	}{
		"mark": {&s.mark, prelude}, "claim": {&s.claim, prelude}, "renew": {&s.renew, prelude},
		"done": {&s.done, prelude}, "fail": {&s.fail, prelude}, "resume": {&s.resume, prelude},
		"reap": {&s.reap, prelude}, "repair": {&s.repair, prelude}, "stats": {&s.stats, prelude}, "stamp": {&s.stamp, nil},
	} {
		text, err := luaFiles.ReadFile("lua/" + name + ".lua")
		if err != nil {
			return s, fmt.Errorf("queue scripts: %w", err)
		}
		*p.into = newScript(string(text), string(p.prelude))
	}
	return s, nil
}

// newScript puts the prelude between the flags, which must be the first line,
// and the body.
func newScript(text, prelude string) *script {
	flags, body, _ := strings.Cut(text, "\n")
	s := &script{}
	s.text[flagged] = flags + "\n" + prelude + body
	s.text[plain] = prelude + body
	for i, t := range s.text {
		sum := sha1.Sum([]byte(t)) // #nosec G401 -- the name that Redis gives a script, no protection
		s.sha[i] = hex.EncodeToString(sum[:])
	}
	return s
}

// call is one run of a script, and then its reply.
type call struct {
	script *script
	keys   []string
	args   []any
	reply  *redis.Cmd
}

// run sends the calls in one round trip and returns the first error. A script
// that the server does not hold (it restarted, failed over, or somebody flushed
// its scripts) did not run, so it is sent again, in full.
//
// Where several partitions are asked, one that fails keeps nothing from the others: each
// call's own error is in its reply.
func (q *Queue) run(ctx context.Context, calls ...*call) error {
	todo := calls
	var first error
	for full := false; ; full = true {
		flavour := int(q.flavour.Load())
		for _, c := range todo {
			c.reply = c.command(ctx, flavour, full)
		}
		q.send(ctx, todo)
		var again []*call
		for _, c := range todo {
			switch err := c.reply.Err(); {
			case err == nil || errors.Is(err, redis.Nil):
			case !full && redis.HasErrorPrefix(err, "NOSCRIPT"):
				again = append(again, c)
			case full && flavour == flagged && strings.Contains(strings.ToLower(err.Error()), "compiling script"):
				q.flavour.Store(plain)
				again = append(again, c)
			case first == nil:
				first = err
			}
		}
		if len(again) == 0 {
			return first
		}
		todo = again
	}
}

func (c *call) command(ctx context.Context, flavour int, full bool) *redis.Cmd {
	args := make([]any, 0, 3+len(c.keys)+len(c.args))
	if full {
		args = append(args, "eval", c.script.text[flavour])
	} else {
		args = append(args, "evalsha", c.script.sha[flavour])
	}
	args = append(args, len(c.keys))
	for _, k := range c.keys {
		args = append(args, k)
	}
	return redis.NewCmd(ctx, append(args, c.args...)...)
}

// send runs the commands; errors stay in them.
func (q *Queue) send(ctx context.Context, calls []*call) {
	if len(calls) == 1 {
		_ = q.client.Process(ctx, calls[0].reply)
		return
	}
	pipe := q.client.Pipeline()
	for _, c := range calls {
		_ = pipe.Process(ctx, c.reply)
	}
	_, _ = pipe.Exec(ctx)
}

// ints reads a reply that is a list of n integers.
func (c *call) ints(n int) ([]int64, error) {
	v, err := c.reply.Int64Slice()
	if err != nil {
		return nil, err
	}
	if len(v) != n {
		return nil, fmt.Errorf("script replied with %d numbers, want %d", len(v), n)
	}
	return v, nil
}

package config

import (
	"regexp"
	"strconv"
	"strings"
)

const prefix = "CREDITMIRROR_"

// serviceLink matches the names that Kubernetes gives every container of a
// namespace that has a Service called creditmirror or creditmirror-something.
var serviceLink = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)?)$`)

// unknownProblem is the problem of a CREDITMIRROR_* name that means nothing.
// Its value is not looked at: it may be a secret under a misspelt name.
func unknownProblem(name string, inKubernetes bool) Problem {
	p := Problem{Var: name}
	if !regexp.MustCompile(`^[A-Za-z0-9_]{1,100}$`).MatchString(name) {
		p.Var = strconv.QuoteToASCII(name[:min(len(name), 100)]) // keeps one problem on one line
	}
	if inKubernetes && serviceLink.MatchString(name) {
		p.Message = "is set by Kubernetes for a Service of that name; set enableServiceLinks: false in the pod"
		return p
	}
	var names []string
	for _, s := range table() {
		names = append(names, string(s.Var))
		if s.Secret {
			names = append(names, string(s.Var)+fileSuffix)
		} else if name == string(s.Var)+fileSuffix {
			p.Message = "is unknown; only secrets can be read from a file; set " + string(s.Var)
			return p
		}
	}
	p.Message = "is unknown; remove it"
	if near, ok := nearest(name, names); ok {
		p.Message = "is unknown; did you mean " + near + "?"
	}
	return p
}

// nearest returns the candidate that name is most probably a slip of, if any is
// near enough. The prefix of our own variables does not count, since STRIPE_*
// names do not have it and are easily given it.
func nearest(name string, candidates []string) (string, bool) {
	bare := strings.TrimPrefix(name, prefix)
	best, bestDistance := "", max(1, len(bare)/3)+1
	for _, c := range candidates {
		if d := distance(bare, strings.TrimPrefix(c, prefix)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best, best != ""
}

// distance is the number of characters (bytes) to insert, delete, replace or
// swap with their neighbour in order to turn a into b.
func distance(a, b string) int {
	if len(a) > 100 { // no name of ours is that long, and the cost is a product
		return len(a)
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, before
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}

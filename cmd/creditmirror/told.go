package main

import (
	"regexp"
	"strconv"
	"strings"
)

// hidden stands where an argument is not repeated.
const hidden = "[not shown]"

var (
	plainWord = regexp.MustCompile(`^[a-z][a-z-]{0,19}$`)
	ourID     = regexp.MustCompile(`^(cus|acct|evt|we|ed|cbtxn|credgr|cbt|drift|dead|di)_[A-Za-z0-9]{1,64}$`)
	unknown   = regexp.MustCompile(`^unknown command ("(?:[^"\\]|\\.)*")`)
	prefixed  = regexp.MustCompile(`(?i)(sk|rk|pk|ek|whsec)_`)
	userinfo  = regexp.MustCompile(`://[^/?#]*@`)
	password  = regexp.MustCompile(`(?i)(password|passwd|secret|token|key)[a-z_]*=`)
	random    = regexp.MustCompile(`[A-Za-z0-9+_=-]{20,}`)
	digit     = regexp.MustCompile(`[0-9]`)
	letter    = regexp.MustCompile(`[A-Za-z]`)
	moment    = regexp.MustCompile(`^[0-9]{4}-[0-9TZ:.+-]+$`)
	place     = regexp.MustCompile(`^(\.{0,2}|~)/|^sqlite:[^?]*$|^[a-z0-9]+://[^?]*$|\.[a-z]{2,7}$`)
)

// shown is an argument as an error may repeat it: a short lower-case word or an id. What
// stands in the wrong place of a command line is too often what was meant for a prompt.
func shown(arg string) string {
	if plainWord.MatchString(arg) || ourID.MatchString(arg) {
		return arg
	}
	return hidden
}

// secretLike reports whether the value of a flag looks like a secret.
func secretLike(s string) bool {
	if ourID.MatchString(s) || moment.MatchString(s) {
		return false
	}
	if prefixed.MatchString(s) || userinfo.MatchString(s) || password.MatchString(s) {
		return true
	}
	if place.MatchString(s) { // an error about a file or an address has to name it
		return false
	}
	for _, part := range random.FindAllString(s, -1) {
		if digit.MatchString(part) && letter.MatchString(part) {
			return true
		}
	}
	return false
}

// told is the text of an error without what may be a secret of the command line.
func told(err error, args []string) string {
	text := err.Error()
	if m := unknown.FindStringSubmatch(text); m != nil {
		if arg, bad := strconv.Unquote(m[1]); bad != nil || !plainWord.MatchString(arg) {
			text = "unknown command " + hidden + text[len(m[0]):]
		}
	}
	for _, arg := range args {
		parts := []string{arg, strings.TrimLeft(arg, "-")}
		if _, value, ok := strings.Cut(arg, "="); ok {
			parts = append(parts, value)
		}
		for _, part := range parts {
			if !secretLike(part) {
				continue
			}
			quoted := strconv.Quote(part)
			text = strings.NewReplacer(part, hidden, quoted[1:len(quoted)-1], hidden).Replace(text)
		}
	}
	return text
}

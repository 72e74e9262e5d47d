// Package docs holds what the program shows of its own documentation.
package docs

import "embed"

// Runbooks are the pages of runbooks/, one per alert.
//
//go:embed runbooks/*.md
var Runbooks embed.FS

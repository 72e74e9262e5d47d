package app

import (
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// warnOfOpenDoors logs once, at startup, what others may read: the files of an older
// mirror, and links to another host without TLS.
func (p *Parts) warnOfOpenDoors(log *zap.Logger) {
	if path, ok := p.Config.SQLitePath(); ok {
		for _, file := range sqlite.Loose(path) {
			log.Warn("database file is readable by other users; set its mode to 0600", zap.String("file", file))
		}
	}
	for _, link := range p.Config.PlainLinks() {
		log.Warn("connection to another host is not encrypted; use TLS", zap.String("dependency", link))
	}
}

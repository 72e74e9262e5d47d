package app

import (
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// warnOfOpenDoors tells once, at the start, what others may read: the files of an older
// mirror, and links to another host without TLS.
func (p *Parts) warnOfOpenDoors(log *zap.Logger) {
	if path, ok := p.Config.SQLitePath(); ok {
		for _, file := range sqlite.Loose(path) {
			log.Warn("database file can be read by other users of this machine; make it 0600", zap.String("file", file))
		}
	}
	for _, link := range p.Config.PlainLinks() {
		log.Warn("link to another host without tls: what is read and written can be seen and changed on the way", zap.String("dependency", link))
	}
}

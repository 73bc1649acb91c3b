package daemon

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gin-contrib/cors"
	"github.com/gin-gonic/gin"
)

// record logs each request when it has been answered.
func (d *Daemon) record(c *gin.Context) {
	start := time.Now()
	c.Next()
	d.log.Info("request", "method", c.Request.Method, "path", c.Request.URL.Path, "status", c.Writer.Status(),
		"took", time.Since(start).Round(time.Microsecond), "client", c.RemoteIP())
}

// survive answers a request whose handler panics. Nobody else notices.
func (d *Daemon) survive(c *gin.Context) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			panic(p)
		}
		d.log.Error("panic", "path", c.Request.URL.Path, "panic", p, "stack", string(debug.Stack()))
		d.failAnywhere(c, errInternal)
	}()
	c.Next()
}

// patternOrigin is an origin that the cors package takes for a regular expression.
var patternOrigin = regexp.MustCompile(`^/(.+)/[gimuy]?$`)

// allowOrigins lets pages of these origins use the API from a browser.
func allowOrigins(origins []string) (handler gin.HandlerFunc, err error) {
	for _, o := range origins {
		if strings.Count(o, "*") > 1 {
			return nil, fmt.Errorf("OLLAMA_ORIGINS: %q has more than one *", o)
		}
		if m := patternOrigin.FindStringSubmatch(o); m != nil {
			if _, err := regexp.Compile(m[1]); err != nil {
				return nil, fmt.Errorf("OLLAMA_ORIGINS: %w", err)
			}
		}
	}
	config := cors.DefaultConfig()
	config.AllowWildcard = true
	config.AllowBrowserExtensions = true
	config.AllowOrigins = origins
	config.AllowHeaders = []string{
		"Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With",
		"OpenAI-Beta", // the rest is sent by OpenAI's clients
		"x-stainless-arch", "x-stainless-async", "x-stainless-custom-poll-interval", "x-stainless-helper-method",
		"x-stainless-lang", "x-stainless-os", "x-stainless-package-version", "x-stainless-poll-helper",
		"x-stainless-retry-count", "x-stainless-runtime", "x-stainless-runtime-version", "x-stainless-timeout",
	}
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("OLLAMA_ORIGINS: %w", err)
	}
	return cors.New(config), nil
}

// checkHost refuses requests for a name that is not this machine's, when the daemon
// serves this machine only. A web page can point a name of its own at 127.0.0.1;
// its requests carry that name.
func checkHost(bound net.Addr) gin.HandlerFunc {
	if a, err := netip.ParseAddrPort(bound.String()); err == nil && !a.Addr().IsLoopback() {
		return func(*gin.Context) {}
	}
	return func(c *gin.Context) {
		host, _, err := net.SplitHostPort(c.Request.Host)
		if err != nil {
			host = c.Request.Host
		}
		switch {
		case localAddress(host):
		case !localName(host):
			c.AbortWithStatus(http.StatusForbidden)
		case c.Request.Method == http.MethodOptions:
			c.AbortWithStatus(http.StatusNoContent)
		}
	}
}

// localAddress reports whether host is an IP address that is private or this machine's.
func localAddress(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if ip.IsLoopback() || ip.IsPrivate() || ip.IsUnspecified() {
		return true
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range own {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr() == ip {
			return true
		}
	}
	return false
}

// localName reports whether host is a name that only this machine or its network has.
func localName(host string) bool {
	host = strings.ToLower(host)
	if host == "" || host == "localhost" {
		return true
	}
	if name, err := os.Hostname(); err == nil && host == strings.ToLower(name) {
		return true
	}
	for _, domain := range []string{".localhost", ".local", ".internal"} {
		if strings.HasSuffix(host, domain) {
			return true
		}
	}
	return false
}

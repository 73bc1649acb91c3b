package daemon

import (
	"errors"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"

	"cllm/modelstore"
)

// What belongs to an account at ollama.com is answered as by an Ollama whose cloud is
// switched off and that nobody has signed in to.

// Ollama's texts for models that run in its cloud when that is off.
const (
	textRemoteOff        = "ollama cloud is disabled: remote model is unavailable"
	textRemoteDetailsOff = "ollama cloud is disabled: remote model details are unavailable"
)

// status answers GET /api/status.
func (d *Daemon) status(c *gin.Context) {
	c.JSON(http.StatusOK, api.StatusResponse{Cloud: api.CloudStatus{Disabled: true, Source: d.opts.CloudOff}})
}

// whoami answers POST /api/me. It names no page to sign in at: that would change
// nothing here.
func (d *Daemon) whoami(c *gin.Context) {
	d.fail(c, newError(http.StatusUnauthorized, "unauthorized"))
}

// signOut answers POST /api/signout and DELETE /api/user/keys/:key.
func (d *Daemon) signOut(c *gin.Context) {
	d.fail(c, newError(http.StatusUnauthorized, "you are not currently signed in"))
}

// listAliases answers GET /api/experimental/aliases.
func (d *Daemon) listAliases(c *gin.Context) {
	list, err := d.aliases.list()
	if err != nil {
		d.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, gin.H{"aliases": list})
}

// setAlias answers POST /api/experimental/aliases.
func (d *Daemon) setAlias(c *gin.Context) {
	var written alias
	if err := decode(c, &written); err != nil {
		d.fail(c, err)
		return
	}
	one, err := written.checked()
	if err == nil && !one.Prefix {
		err = d.hidesNothing(one.Alias)
	}
	if err != nil {
		d.fail(c, newError(http.StatusBadRequest, err.Error()))
		return
	}
	err = d.aliases.set(one)
	if errors.Is(err, errAliasCycle) {
		err = newError(http.StatusBadRequest, err.Error())
	}
	if err != nil {
		d.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, one)
}

// hidesNothing refuses an alias that is the name of a model.
func (d *Daemon) hidesNothing(name string) error {
	if _, err := d.lookup(name); !missing(err) {
		return errorf(http.StatusBadRequest, "alias %q conflicts with existing model", name)
	}
	return nil
}

// deleteAlias answers DELETE /api/experimental/aliases.
func (d *Daemon) deleteAlias(c *gin.Context) {
	var req struct {
		Alias string `json:"alias"`
	}
	if err := decode(c, &req); err != nil {
		d.fail(c, err)
		return
	}
	name := strings.TrimSpace(req.Alias)
	if name == "" {
		d.fail(c, newError(http.StatusBadRequest, "alias is required"))
		return
	}
	found, err := d.aliases.remove(name)
	if err == nil && !found {
		err = errorf(http.StatusNotFound, "alias %q not found", name)
	}
	if err != nil {
		d.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, gin.H{"deleted": true})
}

// find is resolve for a request that the model shall answer.
func (d *Daemon) find(name string) (*modelstore.Model, error) {
	m, err := d.resolve(name)
	if err == nil {
		err = runsHere(m)
	}
	return m, err
}

// resolve is lookup for a name that may be an alias, where there is no model of it.
func (d *Daemon) resolve(name string) (*modelstore.Model, error) {
	m, err := d.lookup(name)
	if missing(err) {
		m, err = d.lookupAlias(name)
	}
	return m, err
}

// runsHere refuses models that run in Ollama's cloud.
func runsHere(m *modelstore.Model) error {
	if m.Config.RemoteHost != "" {
		return newError(http.StatusForbidden, textRemoteOff)
	}
	return nil
}

// lookupAlias returns the model that an alias leads to.
func (d *Daemon) lookupAlias(name string) (*modelstore.Model, error) {
	target, err := d.aliases.target(name)
	if err != nil {
		return nil, err
	}
	if target == "" {
		return nil, notFound(name)
	}
	m, err := d.lookup(target)
	if missing(err) {
		err = notFound(name)
	}
	return m, err
}

// missing reports whether an error of lookup says that there is no such model.
func missing(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && status.StatusCode == http.StatusNotFound
}

package stripesim

import "net/http"

func (c *call) createClock() (any, *apiError) {
	frozen, ok := c.p.timestamp("frozen_time")
	if !ok {
		c.p.fail(errMissing("frozen_time"))
	}
	var name *string
	set(&name, textChange(c.p, "name", 300))
	if e := c.p.done(); e != nil {
		return nil, e
	}
	if c.a.live {
		return nil, errInvalid("testmode_only", "", "Test clocks can only be used in test mode.")
	}
	c.lock()
	defer c.a.mu.Unlock()
	return c.a.renderClock(c.a.createClock(c.cz, frozen, name)), nil
}

// clock returns the test clock that the path names.
func (c *call) clock() (*clock, *apiError) {
	if k := c.a.clocks[c.args[0]]; k != nil && !k.gone {
		return k, nil
	}
	return nil, errNone(http.StatusNotFound, "test clock", c.args[0], "id")
}

func (c *call) getClock() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	k, e := c.clock()
	if e != nil {
		return nil, e
	}
	return c.a.renderClock(k), nil
}

func (c *call) advanceClock() (any, *apiError) {
	to, ok := c.p.timestamp("frozen_time")
	if !ok {
		c.p.fail(errMissing("frozen_time"))
	}
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.lock()
	defer c.a.mu.Unlock()
	k, e := c.clock()
	if e != nil {
		return nil, e
	}
	j, e := c.a.advanceClock(c.cz, k, to)
	if e != nil {
		return nil, e
	}
	return j, nil
}

func (c *call) deleteClock() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.lock()
	defer c.a.mu.Unlock()
	k, e := c.clock()
	if e != nil {
		return nil, e
	}
	c.a.deleteClock(c.cz, k)
	return deletedJSON{k.id, "test_helpers.test_clock", true}, nil
}

func (c *call) listClocks() (any, *apiError) {
	g := c.paging()
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	return runList(c, g, listOf[*clock]{
		rows: &c.a.clockList, what: "test clock", url: "/v1/test_helpers/test_clocks", created: always, find: found(c.a.clocks),
		render: func(k *clock, _ expansion) any { return c.a.renderClock(k) },
	})
}

func (c *call) getAccount() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	return map[string]any{
		"id": c.a.public, "object": "account", "charges_enabled": true, "country": "US",
		"default_currency": c.s.switches().DefaultCurrency, "details_submitted": true, "payouts_enabled": true, "type": "standard",
	}, nil
}

// SPDX-License-Identifier: Apache-2.0
// Transactions: committed, rolled back, unknown until the broker asks.
package main

import (
	"context"
	"strings"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

type listener struct{ checked *seen }

func (l *listener) ExecuteLocalTransaction(m *primitive.Message) primitive.LocalTransactionState {
	switch {
	case strings.HasPrefix(string(m.Body), "commit"):
		return primitive.CommitMessageState
	case strings.HasPrefix(string(m.Body), "rollback"):
		return primitive.RollbackMessageState
	}
	return primitive.UnknowState
}

func (l *listener) CheckLocalTransaction(m *primitive.MessageExt) primitive.LocalTransactionState {
	l.checked.add(string(m.Body))
	if strings.HasSuffix(string(m.Body), "no") {
		return primitive.RollbackMessageState
	}
	return primitive.CommitMessageState
}

func transactions() {
	topic := "GoTx" + run
	l, got := &listener{&seen{}}, &seen{}
	p, err := rocketmq.NewTransactionProducer(l, producer.WithNameServer([]string{namesrv}), producer.WithGroupName("PG_"+topic), producer.WithRetry(2),
		producer.WithInstanceName("tx"+run))
	if err == nil {
		err = p.Start()
	}
	if !check(err == nil, "transaction producer starts", err) {
		return
	}
	for _, body := range []string{"commit 1", "rollback 1", "unknown yes", "unknown no", "commit 2"} {
		r, err := p.SendMessageInTransaction(context.Background(), primitive.NewMessage(topic, []byte(body)))
		check(err == nil && r.Status == primitive.SendOK, "half message "+body, err)
	}
	c := pushInto(topic, consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}, got)
	check(await(60*time.Second, func() bool { return got.len() >= 3 && l.checked.len() >= 2 }), "transactions end, by word or by check", got.all())
	time.Sleep(time.Second)
	text := strings.Join(got.all(), "|")
	check(got.len() == 3 && strings.Contains(text, "commit 1") && strings.Contains(text, "commit 2") && strings.Contains(text, "unknown yes"),
		"what was committed came once, nothing else", text)
	if c != nil {
		c.Shutdown()
	}
	p.Shutdown()
}

// SPDX-License-Identifier: Apache-2.0
// Delay levels with the official Go client.
package main

import (
	"context"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

func delays(topic string) {
	p, err := rocketmq.NewProducer(producer.WithNameServer([]string{namesrv}), producer.WithGroupName("PG_"+topic), producer.WithRetry(2),
		producer.WithInstanceName("p"+topic))
	if err == nil {
		err = p.Start()
	}
	if !check(err == nil, "a producer for delays starts", err) {
		return
	}
	defer p.Shutdown()
	began := time.Now()
	for level, body := range map[int]string{1: "one second", 2: "five seconds"} {
		m := primitive.NewMessage(topic, []byte(body))
		m.WithDelayTimeLevel(level)
		r, err := p.SendSync(context.Background(), m)
		check(err == nil && r.Status == primitive.SendOK, "a delayed message is taken", err)
	}
	var got seen
	c := pushInto(topic, consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}, &got)
	check(await(60*time.Second, func() bool { return got.len() >= 1 }) && time.Since(began) >= time.Second, "the first comes after a second", got.all())
	check(await(60*time.Second, func() bool { return got.len() >= 2 }) && time.Since(began) >= 5*time.Second, "the second after five", got.all())
	check(got.len() == 2, "each once", got.all())
	if c != nil {
		c.Shutdown()
	}
}

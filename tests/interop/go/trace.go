// SPDX-License-Identifier: Apache-2.0
// The official Go client with message trace switched on for producer and consumer: interop NAMESRV TOPIC trace. Prints
// "sent NAME ID" and "consumed", then stays until its input ends: what is traced is sent in the background.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

func trace(topic string) {
	cfg := func(group string) *primitive.TraceConfig {
		return &primitive.TraceConfig{GroupName: group, Access: primitive.Local, NamesrvAddrs: []string{namesrv}}
	}
	p, err := rocketmq.NewProducer(producer.WithNameServer([]string{namesrv}), producer.WithGroupName("PG_"+topic), producer.WithRetry(2),
		producer.WithInstanceName("p"+topic), producer.WithTrace(cfg("PG_"+topic)))
	if err == nil {
		err = p.Start()
	}
	if !check(err == nil, "traced producer starts", err) {
		os.Exit(1)
	}
	r, err := p.SendSync(context.Background(), primitive.NewMessage(topic, []byte("plain")).WithTag("TagB").WithKeys([]string{"k3"}))
	if !check(err == nil && r.Status == primitive.SendOK, "traced producer sends", err) {
		os.Exit(1)
	}
	fmt.Println("sent plain", r.MsgID)
	var got seen
	pushInto(topic, consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}, &got, consumer.WithTrace(cfg("CG_"+topic)))
	if check(await(60*time.Second, func() bool { return got.len() >= 1 }), "traced consumer gets it", got.len()) {
		fmt.Println("consumed")
	}
	io.Copy(io.Discard, os.Stdin)
}

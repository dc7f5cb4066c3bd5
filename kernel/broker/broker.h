/* SPDX-License-Identifier: Apache-2.0 */
/* broker.h - the broker core as the rest of the kernel sees it: topics, groups, offsets, clients, send, pull, long polling. */
#ifndef ZK_BROKER_H
#define ZK_BROKER_H
#include "zarya/zarya.h"

/* Rows of the configuration section `broker`; names are Apache's keys ("autoCreateTopicEnable"), so that a broker.conf's keys
 * map one to one. config/ fills a settings struct of zk_broker_settings_size from them. */
extern const struct zr_option zk_broker_options[];
extern const uint32_t zk_n_broker_options;
extern const uint32_t zk_broker_settings_size;

/* Puts up zarya.broker/1, zarya.store/1 and zarya.durability/1 and the kernel's own request handlers. Before plugins are created. */
void zk_broker_provide(void);
/* After all plugins are warm: binds the storage, loads config/ *.json, makes system topics. Raises and fails on damage. */
zr_status zk_broker_open(void);
/* After all are active: announces the broker, starts timers. addr is known now (transport's real port). */
void zk_broker_start(void);
/* Stops taking sends, answers held pulls, withdraws, persists everything. */
void zk_broker_stop(void);
void zk_broker_close(void);
#endif

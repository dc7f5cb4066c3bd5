/* SPDX-License-Identifier: Apache-2.0 */
/* zl/tables.h - the JSON of a topic, a subscription group and a data version, as RocketMQ has it in bodies and in config files:
 * keys in ascending order, null fields left out. */
#ifndef ZL_TABLES_H
#define ZL_TABLES_H
#include "zarya/broker.h"
#include "zl/json.h"

void zl_topic_print(struct zl_jw *w, const struct zr_topic *topic);
void zl_group_print(struct zl_jw *w, const struct zr_group *group);
void zl_version_print(struct zl_jw *w, const char *key, const struct zr_data_version *version); /* with its key */
#endif

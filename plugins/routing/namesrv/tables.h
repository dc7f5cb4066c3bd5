/* SPDX-License-Identifier: Apache-2.0 */
/* tables.h - between tables.c, register.c and tools.c. Everything here wants the write lock, unless it says otherwise. */
#ifndef NS_TABLES_H
#define NS_TABLES_H
#include "namesrv.h"

#define PERM_WRITE 2
#define PERM_READ_WRITE 6

struct ns_notice; /* register.c: a word to brokers that is to be sent */
struct ns_trash {
    struct ns_live *lives; /* through node.next; sessions are to be released */
    struct ns_notice *notices;
    uint32_t close;        /* their connections too */
    uint32_t reserved;
};

/* ---- no lock ---- */
uint32_t version_equal(const struct zr_data_version *a, const struct zr_data_version *b);
uint32_t version_newer(const struct zr_data_version *a, const struct zr_data_version *than);
uint32_t version_older(const struct zr_data_version *a, const struct zr_data_version *than);
zr_status text_set(struct zr_str *to, struct zr_str from);

/* Releases, closes, tells and frees; without any lock. register.c. */
void trash_empty(struct zr_inst *inst, struct ns_trash *trash);

/* ---- lives ---- */
struct ns_live *live_make(struct zr_inst *inst, const struct ns_registration *reg);
zr_status live_filters_set(struct zr_inst *inst, struct ns_live *live, const struct ns_content *content);
void live_bury_locked(struct zr_inst *inst, struct ns_live *live, struct ns_trash *trash);
void live_free(struct ns_live *live);

/* ---- topics ---- */
struct ns_topic *topic_get(struct zr_inst *inst, struct zr_str name);
struct ns_queues *topic_entry(const struct ns_topic *topic, const struct ns_broker *broker);
struct ns_topic *topic_make_locked(struct zr_inst *inst, struct zr_str name);
zr_status topic_put_locked(struct zr_inst *inst, struct ns_topic *topic, struct ns_queues queues);
uint32_t topic_remove_locked(struct zr_inst *inst, struct ns_topic *topic, struct ns_broker *broker);
void topic_settle_locked(struct zr_inst *inst, struct ns_topic *topic);
void topic_drop_mapping_locked(struct ns_topic *topic, const struct ns_broker *broker);
void mapping_free(struct ns_mapping *mapping);

/* ---- graves ---- */
struct ns_grave *grave_find(const struct ns_topic *topic, const struct ns_broker *broker);
void grave_add_locked(struct zr_inst *inst, struct ns_topic *topic, const struct ns_broker *broker, struct zr_data_version version, int64_t now);
void grave_unlink_locked(struct zr_inst *inst, struct ns_topic *topic);
void graves_forget_locked(struct zr_inst *inst, int64_t now);

/* ---- brokers ---- */
struct ns_broker *broker_get(struct zr_inst *inst, struct zr_str name); /* NULL also for one that is leaving */
struct ns_broker *broker_make_locked(struct zr_inst *inst, const struct ns_registration *reg);
zr_status broker_set_addr_locked(struct zr_inst *inst, struct ns_broker *broker, int64_t id, struct zr_str addr, uint32_t *ret_first);
void broker_remove_addr_at(struct zr_inst *inst, struct ns_broker *broker, uint32_t i);
void broker_wipe_write_locked(struct zr_inst *inst, struct ns_broker *broker);
struct zr_data_version broker_version(struct zr_inst *inst, const struct ns_broker *broker);
zr_status cluster_add_locked(struct zr_inst *inst, struct zr_str name, struct ns_broker *broker);
void broker_leave_locked(struct zr_inst *inst, struct ns_broker *broker);
void brokers_sweep(struct zr_inst *inst); /* with inst->order, without the lock */
#endif

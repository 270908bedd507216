BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE api_tokens (
	id VARCHAR(128) NOT NULL, 
	user_id VARCHAR(128) NOT NULL, 
	label VARCHAR(200) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	scope VARCHAR(16) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE, 
	used_at DOUBLE, 
	PRIMARY KEY (id), 
	FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE, 
	UNIQUE (digest)
);
CREATE TABLE attempts (
	job_id VARCHAR(128) NOT NULL, 
	epoch INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	worker_id VARCHAR(128) NOT NULL, 
	started_at DOUBLE NOT NULL, 
	ended_at DOUBLE, 
	outcome VARCHAR(16), 
	error JSON, 
	PRIMARY KEY (job_id, epoch), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "attempts" VALUES('job-5ba242198f6e',1,1,'w303dc457ed8b1015',@T-14.545@,NULL,NULL,'null');
INSERT INTO "attempts" VALUES('job-3aadf39ccb03',1,1,'w303dc457ed8b1015',@T-14.531@,NULL,NULL,'null');
CREATE TABLE audit (
	number INTEGER NOT NULL, 
	at DOUBLE NOT NULL, 
	actor VARCHAR(200) NOT NULL, 
	address VARCHAR(64) NOT NULL, 
	action VARCHAR(64) NOT NULL, 
	object TEXT NOT NULL, 
	outcome VARCHAR(32) NOT NULL, 
	detail JSON NOT NULL, 
	PRIMARY KEY (number)
);
CREATE TABLE counters (
	name VARCHAR(32) NOT NULL, 
	value INTEGER NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "counters" VALUES('revision',33);
INSERT INTO "counters" VALUES('job',3);
INSERT INTO "counters" VALUES('worker',1);
CREATE TABLE endpoints (
	id VARCHAR(128) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	url TEXT NOT NULL, 
	username TEXT NOT NULL, 
	secret BLOB, 
	secret_ref TEXT, 
	thumbprint VARCHAR(128), 
	insecure BOOLEAN NOT NULL, 
	datacenter TEXT, 
	is_default BOOLEAN NOT NULL, 
	created_at DOUBLE NOT NULL, 
	revision INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
CREATE TABLE idempotency (
	"key" VARCHAR(300) NOT NULL, 
	request VARCHAR(64) NOT NULL, 
	status INTEGER, 
	answer BLOB, 
	content_type VARCHAR(100), 
	at DOUBLE NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE job_log (
	job_id VARCHAR(128) NOT NULL, 
	start INTEGER NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (job_id, start), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "job_log" VALUES('job-5ba242198f6e',0,X'323032362D31312D32355432333A34373A30372E3236372B30303A303020617474656D70742031206F6E207733303364633435376564386231303135202865706F63682031290A323032362D31312D32355432333A34373A30372E3637392B30303A30302061742074686520736F757263653A206D616B6520612074656D706F7261727920736E617073686F743B2072656D6F76652069742061742074686520656E640A323032362D31312D32355432333A34373A30372E3637392B30303A30302061742074686520736F757263653A20686F6C6420616E206578706F7274206C6561736520286E6F20706F7765722D6F6E20616E64206E6F206D6967726174696F6E206D65616E7768696C65290A');
INSERT INTO "job_log" VALUES('job-3aadf39ccb03',0,X'323032362D31312D32355432333A34373A30372E3335322B30303A303020617474656D70742031206F6E207733303364633435376564386231303135202865706F63682031290A323032362D31312D32355432333A34373A30372E3637352B30303A30302061742074686520736F757263653A20656A6563742049534F20696D616765733B20707574207468656D206261636B2061742074686520656E640A323032362D31312D32355432333A34373A30372E3637352B30303A30302061742074686520736F757263653A20686F6C6420616E206578706F7274206C6561736520286E6F20706F7765722D6F6E20616E64206E6F206D6967726174696F6E206D65616E7768696C65290A');
INSERT INTO "job_log" VALUES('job-5ba242198f6e',271,X'323032362D31312D32355432333A34373A30382E3139342B30303A3030207765622D313A20707265706172696E670A323032362D31312D32355432333A34373A30382E3139342B30303A30302077616974696E6720666F7220746865206578706F7274206C656173650A323032362D31312D32355432333A34373A30382E3139342B30303A30302048617264206469736B20313A207175657565640A323032362D31312D32355432333A34373A30382E3139342B30303A30302048617264206469736B20323A207175657565640A323032362D31312D32355432333A34373A30382E3639372B30303A3030207765622D313A207472616E7366657272696E670A323032362D31312D32355432333A34373A30382E3639372B30303A30302048617264206469736B20313A207472616E7366657272696E670A');
INSERT INTO "job_log" VALUES('job-3aadf39ccb03',266,X'323032362D31312D32355432333A34373A30382E3139342B30303A3030207765622D303A20707265706172696E670A323032362D31312D32355432333A34373A30382E3139342B30303A30302077616974696E6720666F7220746865206578706F7274206C656173650A323032362D31312D32355432333A34373A30382E3139342B30303A30302048617264206469736B20313A207175657565640A323032362D31312D32355432333A34373A30382E3139342B30303A30302048617264206469736B20323A207175657565640A323032362D31312D32355432333A34373A30382E3639382B30303A3030207765622D303A207472616E7366657272696E670A323032362D31312D32355432333A34373A30382E3639382B30303A30302048617264206469736B20313A207472616E7366657272696E670A');
INSERT INTO "job_log" VALUES('job-5ba242198f6e',583,X'323032362D31312D32355432333A34373A31342E3731372B30303A30302048617264206469736B20313A20646F6E652C203131362E30204B69422072656365697665640A323032362D31312D32355432333A34373A31342E3731372B30303A30302048617264206469736B20323A207472616E7366657272696E670A');
INSERT INTO "job_log" VALUES('job-3aadf39ccb03',578,X'323032362D31312D32355432333A34373A31352E3231382B30303A30302048617264206469736B20313A20646F6E652C203133332E35204B69422072656365697665640A');
INSERT INTO "job_log" VALUES('job-3aadf39ccb03',646,X'323032362D31312D32355432333A34373A31352E3731382B30303A30302048617264206469736B20323A207472616E7366657272696E670A');
CREATE TABLE jobs (
	id VARCHAR(128) NOT NULL, 
	number INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	vm_path TEXT NOT NULL, 
	output_path TEXT NOT NULL, 
	format VARCHAR(16) NOT NULL, 
	definition JSON NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	endpoint_id VARCHAR(128), 
	secret BLOB, 
	site TEXT NOT NULL, 
	root_id VARCHAR(128) NOT NULL, 
	priority INTEGER NOT NULL, 
	owner VARCHAR(128), 
	state VARCHAR(16) NOT NULL, 
	request VARCHAR(16), 
	keep_partial BOOLEAN NOT NULL, 
	discard BOOLEAN NOT NULL, 
	attempt INTEGER NOT NULL, 
	enqueued INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	worker_id VARCHAR(128), 
	waiting VARCHAR(64), 
	progress JSON NOT NULL, 
	result JSON, 
	error JSON, 
	created_at DOUBLE NOT NULL, 
	created_revision INTEGER NOT NULL, 
	started_at DOUBLE, 
	completed_at DOUBLE, 
	updated_at DOUBLE NOT NULL, 
	revision INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (number)
);
INSERT INTO "jobs" VALUES('job-3aadf39ccb03',1,'web-0','web-0','@FOLDER@/exports/web-0','qcow2','{"vm_path": "web-0", "output_path": "@FOLDER@/exports/web-0", "format": "qcow2", "options": {"parallel_downloads": 1, "remove_cdrom": true}}','2bbe5f2ef6284e2f7cee87f643bf49e87ef4f7347f16346b7af3a54fd22ac53c',NULL,NULL,'@SERVER@','bc6ce843714fdd3e64a29ae315d8fa2a',0,NULL,'running',NULL,0,0,1,1,1,'w303dc457ed8b1015',NULL,'{"phase": "transferring", "current_file": "web-0-disk2.qcow2", "current_step": "transferring", "files_downloaded": 1, "total_files": 2, "bytes_downloaded": 206329, "bytes_transferred": 65536, "total_bytes": 327680, "percent_complete": 40.0, "estimated_remaining": 0, "export_method": "auto", "rate_bytes_s": 12633.9, "eta_s": null, "lease_age_s": 13.0, "note": "", "stalled": null, "disks": [{"label": "Hard disk 1", "file": "web-0-disk1.qcow2", "phase": "done", "capacity_bytes": 65536, "bytes_downloaded": 136704, "bytes_written": 65536, "bytes_skipped": 0, "percent_complete": 100.0, "basis": "allocated bytes", "rate_bytes_s": 0.0, "eta_s": null, "bottleneck": null, "attempt": 1, "note": ""}, {"label": "Hard disk 2", "file": "web-0-disk2.qcow2", "phase": "transferring", "capacity_bytes": 262144, "bytes_downloaded": 69625, "bytes_written": 0, "bytes_skipped": 0, "percent_complete": 0.0, "basis": "allocated bytes", "rate_bytes_s": 12633.9, "eta_s": null, "bottleneck": "source", "attempt": 1, "note": ""}]}','null','null',@T-16.598@,1,@T-14.531@,NULL,@T-0.448@,33);
INSERT INTO "jobs" VALUES('job-5ba242198f6e',2,'web-1','web-1','@FOLDER@/exports/web-1','qcow2','{"vm_path": "web-1", "output_path": "@FOLDER@/exports/web-1", "format": "qcow2", "options": {"parallel_downloads": 1}}','d2c565a61dd8bed3e82a952f2e7570ba410b5ffdb7202d39ad5c8df2361fa5a6',NULL,NULL,'@SERVER@','bc6ce843714fdd3e64a29ae315d8fa2a',0,NULL,'running',NULL,0,0,1,1,1,'w303dc457ed8b1015',NULL,'{"phase": "transferring", "current_file": "web-1-disk2.qcow2", "current_step": "transferring", "files_downloaded": 1, "total_files": 2, "bytes_downloaded": 253945, "bytes_transferred": 131072, "total_bytes": 327680, "percent_complete": 53.6, "estimated_remaining": 19, "export_method": "auto", "rate_bytes_s": 20753.9, "eta_s": 19.5, "lease_age_s": 12.9, "note": "", "stalled": null, "disks": [{"label": "Hard disk 1", "file": "web-1-disk1.qcow2", "phase": "done", "capacity_bytes": 65536, "bytes_downloaded": 118784, "bytes_written": 65536, "bytes_skipped": 0, "percent_complete": 100.0, "basis": "allocated bytes", "rate_bytes_s": 0.0, "eta_s": null, "bottleneck": null, "attempt": 1, "note": ""}, {"label": "Hard disk 2", "file": "web-1-disk2.qcow2", "phase": "transferring", "capacity_bytes": 262144, "bytes_downloaded": 135161, "bytes_written": 65536, "bytes_skipped": 0, "percent_complete": 22.7, "basis": "allocated bytes", "rate_bytes_s": 20753.9, "eta_s": 19.5, "bottleneck": "source", "attempt": 1, "note": ""}]}','null','null',@T-16.531@,2,@T-14.545@,NULL,@T-0.448@,32);
INSERT INTO "jobs" VALUES('job-936bb75c640d',3,'web-2','web-2','@FOLDER@/exports/web-2','qcow2','{"vm_path": "web-2", "output_path": "@FOLDER@/exports/web-2", "format": "qcow2"}','dfd8fdcb1d1fdfe823eeb0c1330117b656bf842dd96d1b2252b21c148013d3b8',NULL,NULL,'@SERVER@','bc6ce843714fdd3e64a29ae315d8fa2a',0,NULL,'queued',NULL,0,0,1,1,0,NULL,NULL,'{"phase": "queued", "current_file": "", "current_step": "", "files_downloaded": 0, "total_files": 0, "bytes_downloaded": 0, "bytes_transferred": 0, "total_bytes": 0, "percent_complete": 0.0, "estimated_remaining": 0, "export_method": "", "rate_bytes_s": null, "eta_s": null, "lease_age_s": null, "note": "", "stalled": null, "disks": []}','null','null',@T-14.523@,5,NULL,NULL,@T-14.523@,5);
CREATE TABLE logins (
	digest VARCHAR(64) NOT NULL, 
	user_id VARCHAR(128) NOT NULL, 
	csrf VARCHAR(64) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	used_at DOUBLE NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	PRIMARY KEY (digest), 
	FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE TABLE meta (
	name VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "meta" VALUES('vault_key','435eaae6cca5c250');
CREATE TABLE nfc_hosts (
	site VARCHAR(300) NOT NULL, 
	host VARCHAR(300) NOT NULL, 
	allowed INTEGER NOT NULL, 
	quiet_since DOUBLE NOT NULL, 
	refused_at DOUBLE NOT NULL, 
	PRIMARY KEY (site, host)
);
INSERT INTO "nfc_hosts" VALUES('@SERVER@','127.0.0.2',8,@T-13.496@,@T-18.496@);
CREATE TABLE nfc_streams (
	id VARCHAR(40) NOT NULL, 
	site VARCHAR(300) NOT NULL, 
	host VARCHAR(300) NOT NULL, 
	worker_id VARCHAR(128) NOT NULL, 
	expires DOUBLE NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "nfc_streams" VALUES('18218b689cdd279e313580b49d8924de','@SERVER@','127.0.0.2','w303dc457ed8b1015',@T+82.688@);
INSERT INTO "nfc_streams" VALUES('23aa340d8c36a6d71c939ff5a0f74332','@SERVER@','127.0.0.2','w303dc457ed8b1015',@T+83.422@);
CREATE TABLE removed (
	revision INTEGER NOT NULL, 
	topic VARCHAR(32) NOT NULL, 
	id VARCHAR(128) NOT NULL, 
	at DOUBLE NOT NULL, 
	PRIMARY KEY (revision)
);
CREATE TABLE runs (
	job_id VARCHAR(128) NOT NULL, 
	record TEXT NOT NULL, 
	updated_at DOUBLE NOT NULL, 
	PRIMARY KEY (job_id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "runs" VALUES('job-3aadf39ccb03','{
 "run_id": "20261125-234707-d6f26f",
 "endpoint": "administrator@vsphere.local@@SERVER@",
 "moref": "vm-1",
 "machine": "web-0",
 "format": "qcow2",
 "compress": "none",
 "started_at": "@I-15@",
 "point": {
  "kind": "off",
  "instance": "e72cd002-658f-4cac-b089-be1c941e0113",
  "snapshot": null,
  "change_version": "@CHANGED:web-0@",
  "boot_time": null,
  "disks": [
   {
    "key": 2000,
    "file": "[nvme-prod-01] web-0/web-0.vmdk",
    "capacity_bytes": 65536,
    "change_id": null
   },
   {
    "key": 2001,
    "file": "[nvme-prod-01] web-0/web-0_1.vmdk",
    "capacity_bytes": 262144,
    "change_id": null
   }
  ]
 },
 "disks": [
  {
   "key": 2000,
   "label": "Hard disk 1",
   "file_name": "web-0-disk1.qcow2",
   "capacity_bytes": 65536,
   "receipt": {
    "label": "Hard disk 1",
    "capacity_bytes": 65536,
    "content": "2fb441bde1ec7a25846e602208e90ce8d466f5635d6f6eb49f1376dc6e3b976c",
    "stream": {
     "sha256": "570d21a412ce5fc045a4c8bd53ab86e7c85e1d8dbcbf3a059f3197ea0e590403",
     "sha1": null,
     "length_bytes": 136704
    },
    "wire_bytes": 136704,
    "written_bytes": 65536,
    "data_bytes": 65536,
    "blocks_written": 1,
    "blocks_skipped": 0,
    "blocks_zero": 0,
    "attempts": 1,
    "elapsed_s": 6.9487686840002425,
    "route": "127.0.0.2:443"
   },
   "sha256": "5151c4ccabd45e37dc0cf77dfbccf7c03dd0042699fa14a122fb1e017fe73b03",
   "size_bytes": 393216,
   "start": null,
   "lease_key": "/vm-1/ParaVirtualSCSIController0:0"
  },
  {
   "key": 2001,
   "label": "Hard disk 2",
   "file_name": "web-0-disk2.qcow2",
   "capacity_bytes": 262144,
   "receipt": null,
   "sha256": null,
   "size_bytes": null,
   "start": null,
   "lease_key": "/vm-1/ParaVirtualSCSIController0:1"
  }
 ],
 "changes": [
  {
   "kind": "cdrom",
   "data": {
    "drives": [
     {
      "key": 3000,
      "label": "CD/DVD drive 1",
      "iso": "[iso-library] debian-12.iso",
      "datastore": "datastore-4",
      "backing_object": null,
      "connected": false,
      "start_connected": true,
      "allow_guest_control": true,
      "migrate_connect": null
     }
    ]
   },
   "made": true,
   "undone": false
  },
  {
   "kind": "lease",
   "data": {
    "session_key": "b3a09faa-707f-4e57-a101-8efb00d9f99c",
    "lease_moref": "",
    "task_moref": null,
    "opened_at": "@I-14@",
    "machine_moref": "vm-1"
   },
   "made": true,
   "undone": true
  },
  {
   "kind": "lease",
   "data": {
    "session_key": "b3a09faa-707f-4e57-a101-8efb00d9f99c",
    "lease_moref": "session[b3a09faa-707f-4e57-a101-8efb00d9f99c]lease-1",
    "task_moref": "task-3",
    "opened_at": "@I-14@",
    "machine_moref": "vm-1"
   },
   "made": true,
   "undone": false
  }
 ],
 "method": null,
 "proof": null,
 "descriptor": null,
 "published": false,
 "lane": "",
 "version": 1
}',@T-6.586@);
INSERT INTO "runs" VALUES('job-5ba242198f6e','{
 "run_id": "20261125-234707-bbf508",
 "endpoint": "administrator@vsphere.local@@SERVER@",
 "moref": "vm-2",
 "machine": "web-1",
 "format": "qcow2",
 "compress": "none",
 "started_at": "@I-15@",
 "point": {
  "kind": "snapshot",
  "instance": "36e57bda-c9f7-47ad-854c-179c6d7c9d38",
  "snapshot": "snapshot-1",
  "change_version": "@CHANGED:web-1@",
  "boot_time": "@BOOTED:web-1@",
  "disks": [
   {
    "key": 2000,
    "file": "[nvme-prod-01] web-1/web-1-000001.vmdk",
    "capacity_bytes": 65536,
    "change_id": null
   },
   {
    "key": 2001,
    "file": "[nvme-prod-01] web-1/web-1_1-000001.vmdk",
    "capacity_bytes": 262144,
    "change_id": null
   }
  ]
 },
 "disks": [
  {
   "key": 2000,
   "label": "Hard disk 1",
   "file_name": "web-1-disk1.qcow2",
   "capacity_bytes": 65536,
   "receipt": {
    "label": "Hard disk 1",
    "capacity_bytes": 65536,
    "content": "d28489df28fba36bb0383cc8067766be20a897cee62631614f7a684ad86c8220",
    "stream": {
     "sha256": "878cf65f201c3b46a803cf69e8d612beb0cfc91a258702176aefe61599752a6f",
     "sha1": null,
     "length_bytes": 118784
    },
    "wire_bytes": 118784,
    "written_bytes": 65536,
    "data_bytes": 65536,
    "blocks_written": 1,
    "blocks_skipped": 0,
    "blocks_zero": 0,
    "attempts": 1,
    "elapsed_s": 6.0717196600016905,
    "route": "127.0.0.2:443"
   },
   "sha256": "85bf3f7639f93fecac25b15efe76f666cb4e54c589dc990d4c41221f71cfb4a4",
   "size_bytes": 393216,
   "start": null,
   "lease_key": "/vm-2/ParaVirtualSCSIController0:0"
  },
  {
   "key": 2001,
   "label": "Hard disk 2",
   "file_name": "web-1-disk2.qcow2",
   "capacity_bytes": 262144,
   "receipt": null,
   "sha256": null,
   "size_bytes": null,
   "start": null,
   "lease_key": "/vm-2/ParaVirtualSCSIController0:1"
  }
 ],
 "changes": [
  {
   "kind": "snapshot",
   "data": {
    "name": "hypersdk-20261125-234707-bbf508",
    "moref": "snapshot-1"
   },
   "made": true,
   "undone": false
  },
  {
   "kind": "lease",
   "data": {
    "session_key": "f8392a2e-a6c5-4f60-8c5d-bff4859b9af7",
    "lease_moref": "",
    "task_moref": null,
    "opened_at": "@I-14@",
    "machine_moref": "vm-2"
   },
   "made": true,
   "undone": true
  },
  {
   "kind": "lease",
   "data": {
    "session_key": "f8392a2e-a6c5-4f60-8c5d-bff4859b9af7",
    "lease_moref": "session[f8392a2e-a6c5-4f60-8c5d-bff4859b9af7]lease-2",
    "task_moref": "task-4",
    "opened_at": "@I-14@",
    "machine_moref": "vm-2"
   },
   "made": true,
   "undone": false
  }
 ],
 "method": null,
 "proof": null,
 "descriptor": null,
 "published": false,
 "lane": "",
 "version": 1
}',@T-7.325@);
CREATE TABLE samples (
	minute INTEGER NOT NULL, 
	rate_bytes_s DOUBLE NOT NULL, 
	submitted INTEGER NOT NULL, 
	queued INTEGER NOT NULL, 
	running INTEGER NOT NULL, 
	paused INTEGER NOT NULL, 
	completed INTEGER NOT NULL, 
	failed INTEGER NOT NULL, 
	cancelled INTEGER NOT NULL, 
	workers INTEGER NOT NULL, 
	streams INTEGER NOT NULL, 
	PRIMARY KEY (minute)
);
CREATE TABLE users (
	id VARCHAR(128) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	password TEXT, 
	disabled BOOLEAN NOT NULL, 
	failures INTEGER NOT NULL, 
	locked_until DOUBLE, 
	created_at DOUBLE NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
CREATE TABLE workers (
	id VARCHAR(128) NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	version VARCHAR(32) NOT NULL, 
	roots JSON NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	epoch INTEGER NOT NULL, 
	started_at DOUBLE NOT NULL, 
	beat DOUBLE NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "workers" VALUES('w303dc457ed8b1015','earlier.example.com',1,'0.1.0','["bc6ce843714fdd3e64a29ae315d8fa2a"]','alive',1,@T-16.870@,@T-0.792@);
CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE INDEX ix_jobs_revision ON jobs (revision);
CREATE INDEX nfc_streams_by_host ON nfc_streams (site, host);
CREATE INDEX ix_endpoints_revision ON endpoints (revision);
CREATE INDEX ix_audit_at ON audit (at);
CREATE INDEX ix_idempotency_at ON idempotency (at);
CREATE INDEX ix_api_tokens_user_id ON api_tokens (user_id);
CREATE INDEX ix_logins_user_id ON logins (user_id);
COMMIT;

package com.snc.automation_common.integration.creds;

import java.util.Map;

/** What a resolver of the interface generation implements. Names and values are those that existing JARs refer to. */
public interface IExternalCredential {
    String ARG_ID = "id";
    String ARG_IP = "ip";
    String ARG_TYPE = "type";
    String ARG_MID = "mid";

    String VAL_USER = "user";
    String VAL_PSWD = "pswd";
    String VAL_PASSPHRASE = "passphrase";
    String VAL_PKEY = "pkey";
    String VAL_AUTHPROTO = "authprotocol";
    String VAL_AUTHKEY = "authkey";
    String VAL_PRIVPROTO = "privprotocol";
    String VAL_PRIVKEY = "privkey";
    String VAL_SECRET_KEY = "secret_key";
    String VAL_CLIENT_ID = "client_id";
    String VAL_TENANT_ID = "tenant_id";
    String VAL_EMAIL = "email";
    String VAL_SSHCERT = "sshcert";

    String CRED_TYPE_SSH_PASSWORD = "ssh_password";
    String CRED_TYPE_SSH_PRIVATE_KEY = "ssh_private_key";
    String CRED_TYPE_SNMP = "snmp";
    String CRED_TYPE_SNMPV3 = "snmpv3";
    String CRED_TYPE_VMWARE = "vmware";
    String CRED_TYPE_WINDOWS = "windows";
    String CRED_TYPE_MSSQL = "mssql";
    String CRED_TYPE_CIM = "cim";
    String CRED_TYPE_JMS = "jms";
    String CRED_TYPE_JDBC = "jdbc";
    String CRED_TYPE_BASIC = "basic_auth";
    String CRED_TYPE_BASIC_AUTH = "basic_auth";
    String CRED_TYPE_AZURE = "azure";
    String CRED_TYPE_AZURE_SSH_CERT = "azure_ssh_cert";
    String CRED_TYPE_GCP = "gcp";

    /** Gets the parameters whose names begin with {@code ext.cred}. */
    void config(Map<String, String> configuration);

    /** Looks one credential up: arguments {@code ARG_*}, result {@code VAL_*}. */
    Map<String, String> resolve(Map<String, String> arguments);

    String getVersion();
}

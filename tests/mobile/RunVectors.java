import java.io.ByteArrayInputStream;
import java.io.FileReader;
import java.nio.charset.StandardCharsets;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.Signature;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.interfaces.ECPublicKey;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.Properties;

/** Prints what the class of docs/mobile/android.md makes of the vectors, one `name=value` a line. */
final class RunVectors {
    static Properties given = new Properties();

    static byte[] url(String name) { return Base64.getUrlDecoder().decode(given.getProperty(name)); }

    static PrivateKey key(String name, String algorithm) throws Exception {
        byte[] der = Base64.getDecoder().decode(given.getProperty(name));
        return KeyFactory.getInstance(algorithm).generatePrivate(new PKCS8EncodedKeySpec(der));
    }

    static void say(String name, String value) { System.out.println(name + "=" + value); }

    static byte[] opened(String name, byte[] contentKey) throws Exception {
        String[] parts = given.getProperty(name).split("\\.", -1);
        Base64.Decoder decoder = Base64.getUrlDecoder();
        return KeyferryCrypto.aesGcm(contentKey, parts[0], decoder.decode(parts[2]), decoder.decode(parts[3]), decoder.decode(parts[4]));
    }

    public static void main(String[] arguments) throws Exception {
        try (FileReader reader = new FileReader(arguments[0])) { given.load(reader); }
        say("derived", KeyferryCrypto.b64(KeyferryCrypto.concatKdf(url("shared_secret"), "A256GCM", 256)));
        say("jose", KeyferryCrypto.b64(KeyferryCrypto.joseSignature(url("asn1"))));
        say("asn1", KeyferryCrypto.b64(KeyferryCrypto.asn1Signature(url("jose"))));
        byte[] contentKey = KeyferryCrypto.ecdhEs(key("encryption_key", "EC"), url("epk_x"), url("epk_y"), null);
        say("jwe", new String(opened("jwe", contentKey), StandardCharsets.US_ASCII));
        byte[] wrapped = Base64.getUrlDecoder().decode(given.getProperty("rsa_jwe").split("\\.")[1]);
        byte[] unwrapped = KeyferryCrypto.rsaOaep(key("rsa_key", "RSA"), wrapped);
        say("rsa_jwe", new String(opened("rsa_jwe", unwrapped), StandardCharsets.US_ASCII));
        byte[] pem = given.getProperty("certificate").getBytes(StandardCharsets.US_ASCII);
        CertificateFactory factory = CertificateFactory.getInstance("X.509");
        X509Certificate certificate = (X509Certificate) factory.generateCertificate(new ByteArrayInputStream(pem));
        say("pin", KeyferryCrypto.pin(certificate));
        say("thumbprint", KeyferryCrypto.thumbprint((ECPublicKey) certificate.getPublicKey()));
        // What a phone signs, the platform's way, and verifies again.
        int agree = 0;
        for (int each = 0; each < 300; each++) {
            Signature signer = Signature.getInstance("SHA256withECDSA");
            signer.initSign(key("device_key", "EC"));
            signer.update((byte) each);
            byte[] asn1 = signer.sign();
            if (java.util.Arrays.equals(asn1, KeyferryCrypto.asn1Signature(KeyferryCrypto.joseSignature(asn1)))) agree++;
        }
        say("agree", Integer.toString(agree));
        String[] tampered = given.getProperty("jwe").split("\\.", -1);
        try {
            byte[] tag = Base64.getUrlDecoder().decode(tampered[4]);
            tag[0] ^= 1;
            KeyferryCrypto.aesGcm(contentKey, tampered[0], Base64.getUrlDecoder().decode(tampered[2]), Base64.getUrlDecoder().decode(tampered[3]), tag);
            say("tampered", "opened");
        } catch (java.security.GeneralSecurityException refused) {
            say("tampered", "refused");
        }
    }
}
